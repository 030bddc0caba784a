from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("board", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="notice",
            name="colour",
            field=models.CharField(
                choices=[("yellow", "Yellow"), ("green", "Green"), ("pink", "Pink"), ("blue", "Blue")],
                db_default="yellow",
                default="yellow",
                max_length=10,
            ),
        ),
    ]
